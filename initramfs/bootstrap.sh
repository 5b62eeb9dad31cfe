#!/bin/sh
# Install python3 where there is none: the build engine is written in it, and does the rest.
set -eu
test -x /usr/bin/python3 && exit 0
command -v apt-get >/dev/null || {
	echo "error: python3 is missing and this is no Debian: install python3 3.11 or newer" >&2
	exit 1
}
echo "python3 is missing: it runs the build; installing it" >&2
as_root=
if [ "$(id -u)" -ne 0 ]; then
	as_root=sudo
	command -v sudo >/dev/null || {
		echo "error: run as root: apt-get update && apt-get install python3" >&2
		exit 1
	}
fi
$as_root apt-get update
$as_root apt-get install --yes --no-install-recommends python3
