"""The review dashboard: a Streamlit app that shows scans before and after. Imports medidiff, is imported by nothing."""
