#!/bin/sh
# Shows that the oracle sees bugs: each patch in tests/oracle/planted is applied to a copy of the tree, which must build and
# on which the oracle must find a difference. Usage: tests/oracle/planted.sh [NAME…]
set -eu
cd "$(dirname "$0")/../.."
copy=target/planted/tree
seconds=${WALCAST_ORACLE_SECONDS:-90}
failed=0
for patch in tests/oracle/planted/*.patch; do
    name=$(basename "$patch" .patch)
    if [ $# -gt 0 ]; then
        case " $* " in *" $name "*) ;; *) continue ;; esac
    fi
    rm -rf "$copy"
    mkdir -p "$copy"
    tar --exclude=./target --exclude=./.git --exclude=node_modules -cf - . | tar -xf - -C "$copy"
    # Not the time of the original: cargo would take what it built for the patch before.
    find "$copy/src" "$copy/tests" -name '*.rs' -exec touch {} +
    patch --silent --strip=1 --directory="$copy" <"$patch"
    (cd "$copy" && CARGO_TARGET_DIR=../build cargo build --locked --tests --features testing)
    if (cd "$copy" && CARGO_TARGET_DIR=../build WALCAST_ORACLE_SECONDS="$seconds" \
        cargo test --locked --test it oracle:: -- --nocapture) >"target/planted/$name.log" 2>&1; then
        echo "NOT SEEN: $name (target/planted/$name.log)"
        failed=1
    elif grep -q '^seed [0-9]*, transaction' "target/planted/$name.log"; then
        echo "seen: $name: $(grep -m 1 '^seed [0-9]*, transaction' "target/planted/$name.log")"
    else
        echo "FAILED FOR ANOTHER REASON: $name (target/planted/$name.log)"
        failed=1
    fi
done
exit $failed
