"""
The pages. Each is called with the request and the AdminSite it was opened in.

What changes something answers to POST alone, and asks for its own right.
"""
