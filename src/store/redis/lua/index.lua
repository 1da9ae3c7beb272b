-- Notes a session in its subject's index at KEYS[1], where the two live on different nodes.
-- ARGV: the session's key, the time in milliseconds, time to live ('' for ever).
note(KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]))
return 1
