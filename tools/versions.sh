#!/bin/sh
# Fails when two modules of the workspace require different versions of one dependency.
set -eu
for module in "$@"; do
	(cd "$module" && GOWORK=off go mod edit -json | sed -n '/"Require"/,/\]/p' |
		awk -F'"' -v m="$module" '/"Path"/ {p=$4} /"Version"/ {print p, $4, m}')
done | grep -v '^kijabi.dev/' | sort | awk '
	$1 == path && $2 != version { print "error: " path " is " version " in " module " and " $2 " in " $3 ": run make bump DEP=" path " VERSION=..."; bad = 1 }
	{ path = $1; version = $2; module = $3 }
	END { exit bad }'
