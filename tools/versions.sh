#!/bin/sh
# Fails when two modules of the workspace require different versions of one dependency.
# With --fix it raises all of them to the highest instead. `go work sync` does not do:
# it leaves requirements that `go mod tidy` removes.
set -eu
fix=
if [ "${1:-}" = --fix ]; then
	fix=1
	shift
fi

# requirements MODULE...: lines "dependency version module".
requirements() {
	for module in "$@"; do
		(cd "$module" && GOWORK=off go mod edit -json | sed -n '/"Require"/,/\]/p' |
			awk -F'"' -v m="$module" '/"Path"/ {p=$4} /"Version"/ {print p, $4, m}')
	done | grep -v '^kijabi.dev/'
}

# differing MODULE...: lines "module dependency highest-version its-version".
differing() {
	requirements "$@" | sort -k1,1 -k2,2Vr | awk '
		$1 != path { path = $1; highest = $2 }
		$2 != highest { print $3, path, highest, $2 }'
}

if [ -n "$fix" ]; then
	while wanted=$(differing "$@") && [ -n "$wanted" ]; do
		for module in $(echo "$wanted" | cut -d' ' -f1 | sort -u); do
			# Word splitting is wanted: one argument per dependency.
			(cd "$module" && export GOWORK=off &&
				go get $(echo "$wanted" | awk -v m="$module" '$1 == m {print $2 "@" $3}') && go mod tidy)
		done
	done
	exit 0
fi
wanted=$(differing "$@")
[ -n "$wanted" ] || exit 0
echo "$wanted" | while read -r module path highest version; do
	echo "error: $path is $version in $module and $highest elsewhere: run 'make fix-tidy'"
done
exit 1
