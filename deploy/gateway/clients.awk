# Check clients.map and write the nginx maps of the clients, for run.sh:  awk -f clients.awk clients.map > clients.conf
#
# A line is `"Bearer KEY" NAME;`. Errors name the line and never quote it, because it may hold a key. Any error: exit code
# 1, and the output must not be used.
#
# nginx looks up strings of a map without regard to case. So the lookup only finds the one key that can match, and a
# second map compares that key with the presented one byte by byte. No captured text is used as a value.

function fail(reason) { print "line " FNR ": " reason > "/dev/stderr"; failed = 1 }

# Editors of other systems end lines with CR.
{ sub(/\r$/, ""); gsub(/^[ \t]+|[ \t]+$/, "") }

/^#/ || $0 == "" { next }

!/^"Bearer [A-Za-z0-9._~+\/-]+=*"[ \t]+[A-Za-z0-9][A-Za-z0-9_.-]*[ \t]*;$/ {
  fail("expected \"Bearer KEY\" NAME; with a NAME of letters, digits and _ . -")
  next
}

{
  key = $2; sub(/".*/, "", key)
  name = $0; sub(/^"[^"]*"[ \t]+/, "", name); sub(/[ \t]*;$/, "", name)
  if (length(key) < 32) fail("the key has fewer than 32 characters: openssl rand -hex 32 makes one of 64")
  else if (length(key) > 128) fail("the key has more than 128 characters")
  else if (key ~ /^0+$/) fail("the key is that of the example")
  else if (length(name) > 64) fail("the name has more than 64 characters")
  else if (tolower(key) in line_of) fail("the key of line " line_of[tolower(key)] " again (keys must differ in more than case)")
  else {
    line_of[tolower(key)] = FNR
    keys[++count] = key
    names[count] = name
  }
}

END {
  if (failed) exit 1
  print "map $http_authorization $key_of_client {\n  default \"\";"
  for (i = 1; i <= count; i++) print "  \"Bearer " keys[i] "\" \"" keys[i] "\";"
  print "}\nmap $http_authorization $name_of_client {\n  default \"\";"
  for (i = 1; i <= count; i++) print "  \"Bearer " keys[i] "\" \"" names[i] "\";"
  print "}"
}
