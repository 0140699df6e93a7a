"""Pages of the dashboard, one module each, with a function `show`.

Not called `pages`: Streamlit takes a folder of that name beside the script for pages of its own.
"""
