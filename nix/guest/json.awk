# A strict JSON parser (RFC 8259) in POSIX awk: the same in mawk, gawk and busybox. Wants LC_ALL=C, as it works on bytes.
#
# parse(source) returns the number of a node, or 0 when the source is not JSON, not UTF-8, or nested more than 256 deep. Of a node:
#   kind[node]   object, array, string, number, boolean or null; node 0 is the null that stands for whatever is not there
#   text[node]   of a string, decoded; of a number, as written; of a boolean
#   size[node]   of an array or object: how many item[node, 1 …] it has; those of an object are called name[node, 1 …]
# A NUL within a string is the bytes C0 80, which UTF-8 does not have otherwise: in busybox a string would end there.
BEGIN {
  kind[0] = "null"
  # no overlong forms, surrogates or numbers beyond 10FFFF (RFC 3629)
  tail = "[\200-\277]"
  utf8_only = "^([\302-\337]" tail "|\340[\240-\277]" tail "|[\341-\354\356\357]" tail tail "|\355[\200-\237]" tail \
    "|\360[\220-\277]" tail tail "|[\361-\363]" tail tail tail "|\364[\200-\217]" tail tail ")+$"
}

# The source is cut at its quotes, and most pieces are a whole token, as they are: to go through it by character would take ten times as long.
function parse(source,    piece, pieces, i, string) {
  if (substr(source, 1, 3) == "\357\273\277") source = substr(source, 4)
  depth = broken = 0
  wanted = "value"
  pieces = split(source, piece, "\"")
  for (i = 1; i <= pieces && !broken; i++) {
    tokens(piece[i])
    if (i == pieces) break
    string = piece[++i]
    # a quote after an odd number of backslashes belongs to the string
    while (substr(string, length(string)) == "\\" && match(string, /\\+$/) && RLENGTH % 2 && i < pieces) string = string "\"" piece[++i]
    if (i == pieces || string ~ /[^ -\377]/ || string ~ /[\200-\377]/ && !is_utf8(string)) return 0
    if (index(string, "\\")) string = decode(string)
    if (wanted == "name" || wanted == "name or end") {
      called = string
      wanted = "colon"
    } else value("string", string)
  }
  return wanted == "nothing" && !broken ? root : 0
}

# All that is between two strings.
function tokens(rest,    c, chunk, chunks, i) {
  # Each token copies what is left, so a long list of numbers is cut, too.
  if (length(rest) > 99 && (chunks = split(rest, chunk, ",")) > 1) {
    for (i = 1; i <= chunks && !broken; i++) {
      if (i > 1) punctuation(",")
      tokens(chunk[i])
    }
    return
  }
  while (rest != "" && !broken) {
    c = substr(rest, 1, 1)
    if (index(" \t\n\r", c)) sub(/^[ \t\n\r]+/, "", rest)
    else if (index(",:{}[]", c)) {
      punctuation(c)
      rest = substr(rest, 2)
    } else if (match(rest, /^(-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+-]?[0-9]+)?|true|false|null)/)) {
      value(c == "n" ? "null" : c == "t" || c == "f" ? "boolean" : "number", substr(rest, 1, RLENGTH))
      rest = substr(rest, RLENGTH + 1)
    } else broken = 1
  }
}

function punctuation(c) {
  if (c == ":" && wanted == "colon") wanted = "value"
  else if (c == "," && wanted == "more") wanted = kind[open[depth]] == "object" ? "name" : "value"
  else if (c == "{" || c == "[") {
    open[depth + 1] = value(c == "{" ? "object" : "array", "")
    wanted = c == "{" ? "name or end" : "value or end"
    if (++depth > 256) broken = 1
  } else if (kind[open[depth]] == (c == "}" ? "object" : "array") && (c == "}" || c == "]") && wanted ~ /more|or end/) {
    wanted = --depth ? "more" : "nothing"
  } else broken = 1
}

# Of two values of one name the last one holds, in the place of the first.
function value(its_kind, its_text,    holder, at) {
  if (wanted != "value" && wanted != "value or end") broken = 1
  kind[++nodes] = its_kind
  text[nodes] = its_text
  size[nodes] = 0
  if (depth) {
    holder = open[depth]
    if (kind[holder] == "array") at = ++size[holder]
    else if ((holder, called) in place) at = place[holder, called]
    else {
      at = place[holder, called] = ++size[holder]
      name[holder, at] = called
    }
    item[holder, at] = nodes
    wanted = "more"
  } else {
    root = nodes
    wanted = "nothing"
  }
  return nodes
}

function member(node, its_name) { return (node, its_name) in place ? item[node, place[node, its_name]] : 0 }

function decode(raw,    part, parts, i, c, at, number, low, out) {
  parts = split(raw, part, "\\")
  out = part[1]
  for (i = 2; i <= parts; i++) {
    c = substr(part[i], 1, 1)
    if (c == "") out = out "\\" part[++i]
    else if (c != "u") {
      at = index("\"/bfnrt", c)
      if (!at) broken = 1
      out = out substr("\"/\b\f\n\r\t", at, 1) substr(part[i], 2)
    } else {
      number = hex(part[i])
      part[i] = substr(part[i], 6)
      if (number >= 56320 && number < 57344) broken = 1
      else if (number >= 55296 && number < 56320) {
        # two of them are one character, and one alone is none
        low = part[i] == "" && i < parts && substr(part[i + 1], 1, 1) == "u" ? hex(part[++i]) : 0
        if (low < 56320 || low >= 57344) broken = 1
        number = 65536 + (number - 55296) * 1024 + low - 56320
        part[i] = substr(part[i], 6)
      }
      out = out utf8(number) part[i]
    }
  }
  return out
}

function hex(escape,    i, number) {
  if (escape !~ /^u[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]/) broken = 1
  for (i = 2; i <= 5; i++) number = number * 16 + index("123456789abcdef", tolower(substr(escape, i, 1)))
  return number
}

function utf8(number) {
  if (number == 0) return "\300\200"
  if (number < 128) return sprintf("%c", number)
  if (number < 2048) return sprintf("%c%c", 192 + int(number / 64), 128 + number % 64)
  if (number < 65536) return sprintf("%c%c%c", 224 + int(number / 4096), 128 + int(number / 64) % 64, 128 + number % 64)
  return sprintf("%c%c%c%c", 240 + int(number / 262144), 128 + int(number / 4096) % 64, 128 + int(number / 64) % 64, 128 + number % 64)
}

function is_utf8(string) {
  while (match(string, /[\200-\377]+/)) {
    if (substr(string, RSTART, RLENGTH) !~ utf8_only) return 0
    string = substr(string, RSTART + RLENGTH)
  }
  return 1
}

function byte(c,    i) {
  if (!("A" in bytes)) for (i = 1; i < 256; i++) bytes[sprintf("%c", i)] = i
  return bytes[c]
}

# --- a value in the text of a fault: compact JSON of at most 60 characters
function show(node,    i, count, end) {
  shown = ""
  draw(node, 0)
  if (length(shown) <= 60) return shown
  for (i = 1; i <= length(shown); i++)
    if (!continues(substr(shown, i, 1))) {
      if (++count == 58) end = i - 1
      if (count > 60) return substr(shown, 1, end) "…"
    }
  return shown
}
function continues(c) { return byte(c) >= 128 && byte(c) < 192 }
# Ends early where all that follows is cut off.
function draw(node, level,    i) {
  if (level > 60 || length(shown) > 240) return
  if (kind[node] == "null") shown = shown "null"
  else if (kind[node] == "string") quote(text[node])
  else if (kind[node] == "array" || kind[node] == "object") {
    shown = shown (kind[node] == "array" ? "[" : "{")
    for (i = 1; i <= size[node]; i++) {
      if (i > 1) shown = shown ","
      if (kind[node] == "object") {
        quote(name[node, i])
        shown = shown ":"
      }
      draw(item[node, i], level + 1)
    }
    shown = shown (kind[node] == "array" ? "]" : "}")
  } else shown = shown text[node]
}
function quote(string,    i, at, c) {
  shown = shown "\""
  for (i = 1; i <= length(string) && length(shown) <= 240; i++) {
    c = substr(string, i, 1)
    at = index("\"\\\b\f\n\r\t", c)
    if (at) c = "\\" substr("\"\\bfnrt", at, 1)
    else if (c == "\300") {
      c = "\\u0000"
      i++
    } else if (byte(c) < 32 || byte(c) == 127) c = sprintf("\\u%04x", byte(c))
    shown = shown c
  }
  shown = shown "\""
}
