"""`manage.py demo`: the first day of a membership site, as its operator would see it.

scenario   who the members are, what is enqueued, how each task is to end
story      the day: prepare, enqueue, watch the worker, sum up, serve
progress   one line that says how far it is
summary    what became of all the tasks, and whether that is right
processes  the worker and the web server, which end with the demo
"""
