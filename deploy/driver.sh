#!/bin/sh
# A run that can be told to end from beside it: its process number lies in a file.
#
#   driver.sh run COMMAND...    the command; its exit code is ours
#   driver.sh stop              SIGTERM to it, as Ctrl-C, and wait until it has ended
#
# A second SIGTERM would take the `cluster.drain` seconds from a run. So only who has moved the file
# sends one; `ray job stop` signals us and the command, and we move it then.
set -eu
file=${LMMSTEER_DRIVER_FILE:-/tmp/lmmsteer-driver}

run() {
    rm -f "$file.told"
    trap 'mv "$file" "$file.told" 2>/dev/null || true' TERM
    "$@" &
    child=$!
    echo "$child" >"$file"
    while :; do
        wait "$child" && code=0 || code=$?
        kill -0 "$child" 2>/dev/null || break # A signal ends `wait`, but not the command.
    done
    rm -f "$file" "$file.told"
    exit "$code"
}

stop() {
    if mv "$file" "$file.told" 2>/dev/null; then
        kill -TERM "$(cat "$file.told")" 2>/dev/null || true
    fi
    while child=$(cat "$file.told" 2>/dev/null) && kill -0 "$child" 2>/dev/null; do
        sleep 0.2
    done
}

case ${1:-} in
run) shift && run "$@" ;;
stop) stop ;;
*) echo "driver.sh run COMMAND... | driver.sh stop" >&2 && exit 2 ;;
esac
