"""`manage.py demo`: the first day of a membership site, as its operator would see it.

scenario   who the members are, what is enqueued, how each task should end
story      the day: prepare, enqueue, watch the worker, sum up, serve
progress   one line that shows the progress
summary    how all tasks ended, and whether that is right
processes  the worker and the web server, which end with the demo
"""
