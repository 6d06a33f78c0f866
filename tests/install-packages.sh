#!/bin/sh
# Install what tests/debian-packages.txt names, without starting a service of it.
# Needs root on Debian; elsewhere the tests that need a missing program are left out by name.
set -eu
cd "$(dirname "$0")"
missing=$(sed 's/#.*//' debian-packages.txt | while read -r package; do
  [ -z "$package" ] || dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || echo "$package"
done)
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed (needs root on Debian):" $missing >&2
  exit 0
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
  trap 'rm -f $policy' EXIT
fi
log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
if { apt-get update && apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
  rm -f "$log"
else
  tail -n 20 "$log" >&2
  echo "could not install:" $missing "(the tests that need them are left out by name)" >&2
fi
