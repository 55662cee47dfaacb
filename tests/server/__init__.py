"""Tests of the server, and what they share.

``scripted`` has models that answer from scripts, ``serving`` has the server in this process or on a loopback
port, ``valid`` checks one object against the clients' own types, and ``order`` checks a whole stream.
"""
