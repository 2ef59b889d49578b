"""Commands: what is typed, what is printed, exit codes. Everything that they do is done by the layers below.

Start-up is part of the product: a module is imported by the command that needs it, and rich only for a terminal.
"""
