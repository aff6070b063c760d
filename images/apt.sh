# shellcheck shell=bash
# Sourced after images/lib.sh with the components wanted in $components. Sets archives=(deb lines) and aptopts=(options of mmdebstrap).
# shellcheck disable=SC2016,SC2034,SC2154  # $(…) in single quotes is for apt; the rest is read and set by those who source this

# Archives come from the machine's own apt configuration, the security archive included; other vendors' archives are left out: by
# their origin where apt has read the archives, else (no `apt-get update` yet) by the folder that the distribution's own mirrors use.
known() { apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(ORIGIN)' 'Created-By: Packages' | sed -n -E 's/ (Debian|Ubuntu)$//p'; }
configured() { apt-get update --print-uris | sed -n -E "s#^'([^']+)/dists/([^/]+)/InRelease' .*#\\1/ \\2#p" | grep -E '/(debian|debian-security|ubuntu)/+ ' | grep -v -F /linux/; }
mapfile -t archives < <({ known | grep . || configured; } | awk -v suite="$(suite)" -v components="$components" '
  ($2 == suite || $2 == suite "-security" || $2 == suite "-updates") && !seen[$1 $2]++ { print "deb " $1 " " $2 " " components }')
[ ${#archives[@]} -gt 0 ] || die "apt knows no archive of '$(suite)' on this machine; add one to its sources and run 'apt-get update'"

# Proxies and certificate settings of the machine hold for the build too; mmdebstrap does not read them by itself.
aptopts=()
while IFS= read -r line; do aptopts+=(--aptopt="$line"); done < <(apt-config dump | grep -E '^Acquire::(https?|Retries|Check-Valid-Until|Check-Date|ForceIPv[46])\b.* "[^"]+";$' || true)
