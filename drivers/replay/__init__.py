"""Replay: plays recorded or generated columns as if a device gave them. The shortest driver; read it to write one."""
