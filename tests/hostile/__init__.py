"""Hostile requests, one row each: what a caller sends, and what the services answer.

Rows stand in the modules `*_rows.py`, and `table.ROWS` lists them. `test_hostile.py` sends every row to real services
over a socket; `python -m tests.hostile` prints the table with code, survival and memory in Markdown.
"""
