#!/bin/sh
# The talk's demo: a container, this machine and a second VM on one folder.
#
# The container leaves a note in the volume, a process of this machine reads it and answers, a
# second VM sees both and adds a line, and the container sees that one too.
#
# docs/volume-demo.sh [IMAGE], in a checkout after `make run`; GCSCTL names another gcsctl.
set -eu

gcsctl=${GCSCTL:-.venv/bin/gcsctl}
image=${1:-build/nyancat}
first=talk-$$
folder=$(mktemp -d)

take_down() {
    "$gcsctl" rm -f "$first" >/dev/null 2>&1 || true
    rm -r "$folder"
}
trap take_down EXIT
trap 'exit 130' INT TERM

say() {
    printf '\n%s\n' "$*"
}

# Wait for a file of the volume, for a minute at most.
await() {
    tries=600
    until [ -s "$1" ]; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { say "nothing came: $1"; exit 1; }
        sleep 0.1
    done
}

answer() {
    await "$folder/note"
    printf 'the host has read: %s\n' "$(cat "$folder/note")" >"$folder/.answer"
    mv "$folder/.answer" "$folder/answer"
}

say "A process of this machine waits for a note in $folder."
answer &

say 'A container in a VM writes one.'
"$gcsctl" run -d --name "$first" -v "$folder:/talk" "$image" sh -c '
    echo "hello from the container $(cat /proc/sys/kernel/hostname)" >/talk/note
    exec sleep 600'
wait $!

say 'What the container sees of the answer:'
"$gcsctl" exec "$first" cat /talk/answer

say 'What a second VM sees of both, before it adds a line:'
"$gcsctl" run -v "$folder:/talk" "$image" sh -ec '
    cat /talk/note /talk/answer
    echo "the second VM was here" >>/talk/answer'

say 'And what the first container sees now:'
"$gcsctl" exec "$first" tail -n 1 /talk/answer
