"""History: every execution that there was or is, in SQLite or PostgreSQL, for as long as one wants.

`history.History` is the door; `outbox.Recorder` writes in the background. Needs the extra `penstock[history]`.
"""
