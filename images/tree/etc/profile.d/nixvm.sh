# shellcheck shell=sh source=/dev/null
# What this boot has for programs, such as TMPDIR where there is a scratch disk.
if [ -r /run/nixvm/environment ]; then
  set -a
  . /run/nixvm/environment
  set +a
fi
