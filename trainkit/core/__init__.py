"""What the other packages share. It imports none of them.

errors: UserError and the phrasing of messages. validation: plain values against patterns and type hints. diff: how two values
differ, bit by bit. files: atomic writes, safe names. folder: a folder that one process locks. rng: named random streams.
recorded: objects that know their constructor's arguments. yaml_text: plain values as YAML. terminal: the standard streams.
text_table: aligned columns. timing: how long a call takes. library_cache: compiled libraries, kept between processes.
"""
