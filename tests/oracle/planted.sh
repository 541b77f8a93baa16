#!/bin/sh
# Shows that the oracle sees bugs: the patches in tests/oracle/planted put them all into one copy of the tree, each behind
# its name, so that it is built once; then the oracle must find a difference with each of them, and none without.
# Usage: tests/oracle/planted.sh [NAME…]
set -eu
cd "$(dirname "$0")/../.."
copy=target/planted/tree
seconds=${WALCAST_ORACLE_SECONDS:-300}
rm -rf "$copy"
mkdir -p "$copy"
tar --exclude=./target --exclude=./.git --exclude=node_modules -cf - . | tar -xf - -C "$copy"
# Not the time of the original: cargo would take what it built before.
find "$copy/src" "$copy/tests" -name '*.rs' -exec touch {} +
for patch in tests/oracle/planted/*.patch; do
    patch --silent --strip=1 --directory="$copy" <"$patch"
done
# What is built of others' packages is the same here as there: links to it save minutes.
if [ ! -d target/planted/build ] && [ -d target/debug/deps ]; then
    mkdir -p target/planted/build/debug
    cp -al target/debug/build target/debug/deps target/debug/.fingerprint target/planted/build/debug/
fi
cd "$copy"
export CARGO_TARGET_DIR=../build
cargo test --locked --test it --no-run

# Runs the oracle with the bug of this name until it sees a difference.
oracle() {
    PLANTED=$1 WALCAST_ORACLE_SECONDS=$2 WALCAST_ORACLE_DIFFERENCES=1 \
        cargo test --locked --test it verdicts_in_the_stream -- --nocapture >"../$1.log" 2>&1
}

failed=0
for patch in tests/oracle/planted/*.patch; do
    name=$(basename "$patch" .patch)
    [ "$name" != switch ] || continue
    if [ $# -gt 0 ]; then
        case " $* " in *" $name "*) ;; *) continue ;; esac
    fi
    if oracle "$name" "$seconds"; then
        echo "NOT SEEN: $name (target/planted/$name.log)"
        failed=1
    elif grep -q '^seed [0-9]*, transaction' "../$name.log"; then
        echo "seen: $name: $(grep -m 1 '^seed [0-9]*, transaction' "../$name.log")"
    else
        echo "FAILED FOR ANOTHER REASON: $name (target/planted/$name.log)"
        failed=1
    fi
done
if ! oracle none 30; then
    echo "SEEN WITHOUT A BUG (target/planted/none.log)"
    failed=1
fi
exit $failed
