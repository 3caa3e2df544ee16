# What the scripts in this folder share. Sourced, not run.
#
# Nothing here needs root, but packages are installed only as root and servers never run as root.
# shellcheck shell=bash

set -euo pipefail

root_folder=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cache_folder=${PGSLUICE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/pgsluice}

bold='' red='' plain=''
if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' red=$'\e[31m' plain=$'\e[0m'
fi

step() { printf '%s==> %s%s\n' "$bold" "$*" "$plain" >&2; }
note() { printf '    %s\n' "$*" >&2; }
die() {
    printf '%serror: %s%s\n' "$red" "$1" "$plain" >&2
    shift
    local hint
    for hint in "$@"; do printf '  hint: %s\n' "$hint" >&2; done
    exit 1
}

# The head comment of a script is its help.
usage() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"; }

is_root() { [ "$(id -u)" -eq 0 ]; }
has() { command -v "$1" >/dev/null 2>&1; }

# The folder of the newest packaged server's programs, else of one that tools/servers installed; empty without one.
postgres_bin() {
    local bin newest=''
    for bin in "$(servers_folder)"/*/bin $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V); do
        [ -x "$bin/initdb" ] && [ -x "$bin/pgbench" ] && newest=$bin
    done
    printf '%s\n' "${PGSLUICE_PG_BIN:-$newest}"
}

# The folder of that name which is kept for later runs, or the one that was typed. Servers don't run as root, who therefore keeps them
# outside of his home.
kept_folder() {
    local name=$1 typed=$2
    if [ -n "$typed" ]; then
        printf '%s\n' "$typed"
    elif is_root; then
        printf '%s\n' "/var/cache/pgsluice/$name"
    else
        printf '%s\n' "$cache_folder/$name"
    fi
}

servers_folder() { kept_folder servers "${PGSLUICE_SERVERS:-}"; }

# Servers of object stores, for tests.
stores_folder() { kept_folder stores "${PGSLUICE_STORES:-}"; }

# install_packages PACKAGE... : by apt as root, else says what somebody who may should do.
install_packages() {
    [ $# -gt 0 ] || return 0
    is_root && has apt-get || die "missing Debian packages: $*" "as root: apt-get install --no-install-recommends $*"
    step "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    # Debian's package makes and starts a cluster of its own unless it is told not to.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi
    apt-get update -q >&2 || note 'apt-get update failed; trying with the lists at hand'
    apt-get install -qy --no-install-recommends "$@" >&2
}

need_postgres() {
    if [ -z "$(postgres_bin)" ]; then
        # The server's package has pgbench and the contrib modules since version 10.
        install_packages postgresql postgresql-contrib
    fi
    if is_root && ! id postgres >/dev/null 2>&1; then
        die 'no user postgres to run servers as' 'useradd --system postgres'
    fi
}

need_python() {
    has python3 || install_packages python3
}

# need_python_packages NAME PACKAGE... : a Python environment of that name among the stores, where it isn't yet.
need_python_packages() {
    local folder name=$1 packages
    shift
    packages=("$@")
    folder=$(stores_folder)
    [ "$(cat "$folder/$name/packages" 2>/dev/null)" != "${packages[*]}" ] || return 0
    need_python
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
    step "installing ${packages[0]} into $folder"
    mkdir -p "$folder"
    # Somebody else may be about it too.
    (
        flock 9
        [ "$(cat "$folder/$name/packages" 2>/dev/null)" != "${packages[*]}" ] || exit 0
        rm -rf "$folder/$name.partial" "$folder/$name"
        python3 -m venv "$folder/$name.partial" &&
            "$folder/$name.partial/bin/python" -m pip install -q --disable-pip-version-check "${packages[@]}" >&2 &&
            printf '%s\n' "${packages[*]}" >"$folder/$name.partial/packages" &&
            mv "$folder/$name.partial" "$folder/$name"
    ) 9>"$folder/lock" || die "${packages[0]} could not be had from PyPI" 'PGSLUICE_STORES names another folder'
}

# The S3 server moto. Tests of stores fail without it, and name tools/stores.
need_stores() {
    # moto's own extra for its server brings the packages of all of Amazon's services.
    need_python_packages moto 'moto[s3]==5.2.5' flask==3.1.3 flask-cors==6.0.5
}

# DuckDB, which reads what `export` writes; the tests go on without it, and say so.
need_duckdb() {
    need_python_packages duckdb duckdb==2.0.0
}

# The output plugin wal2json for the newest packaged server; the tests run without it too, and say so.
want_wal2json() {
    local folders newest major
    folders=$(printf '%s\n' /usr/lib/postgresql/*/bin/postgres | sort -V)
    newest=$(tail -n 1 <<<"$folders")
    major=${newest#/usr/lib/postgresql/}
    major=${major%%/*}
    if [ -x "$newest" ] && [ ! -e "/usr/lib/postgresql/$major/lib/wal2json.so" ] && is_root && has apt-get; then
        (install_packages "postgresql-$major-wal2json") || note 'going on without wal2json'
    fi
}

# A browser for the tests of the status page; and for those of its figures Prometheus, whose package starts a service, so only where nobody
# minds. The tests skip what is missing, and say so.
want_browser() {
    local missing=()
    has chromium && has chromedriver || missing+=(chromium chromium-driver)
    if [ "${CI:-}" = true ]; then has prometheus && has promtool || missing+=(prometheus); fi
    if [ ${#missing[@]} -gt 0 ] && is_root && has apt-get; then
        (install_packages "${missing[@]}") || note "going on without ${missing[*]}"
    fi
}

# A library that gives a server a wrong clock, for a test of the alarm about clocks, which skips without it, and says so.
want_faketime() {
    if ! compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null && is_root && has apt-get; then
        (install_packages libfaketime) || note 'going on without libfaketime'
    fi
}

# What RocksDB's bindings and its C++ need.
need_compilers() {
    local missing=()
    has c++ && has make || missing+=(build-essential)
    has pkg-config || missing+=(pkg-config)
    # Not libclang-cpp, which other packages bring.
    if ! compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s0-9]*' >/dev/null && [ -z "${LIBCLANG_PATH:-}" ]; then
        missing+=(libclang-dev)
    fi
    install_packages "${missing[@]}"
}

need_rust() {
    [ -d "${CARGO_HOME:-$HOME/.cargo}/bin" ] && PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    has cargo || die 'no Rust toolchain' 'https://rustup.rs, or: apt-get install rustup && rustup default stable'
    local wanted have
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root_folder/Cargo.toml")
    have=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ] ||
        die "Rust $have is too old, $wanted is needed" 'rustup update stable'
}

# One target folder for all clones: RocksDB takes a quarter of an hour on two cores, once.
use_build_cache() {
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache_folder/target}
    [ -d /usr/lib/ccache ] && PATH=/usr/lib/ccache:$PATH
    export PATH CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
}

# Builds the program and says where it is.
build_program() {
    need_rust
    need_compilers
    use_build_cache
    step 'building pgsluice (the first build compiles RocksDB: about 15 minutes on two cores)'
    (cd "$root_folder" && cargo build --release --locked --bin pgsluice >&2)
    printf '%s\n' "$CARGO_TARGET_DIR/release/pgsluice"
}

# build_bench NAME: builds the program and one of benches/ at once, so that their crates are compiled once, and says where the
# latter is, which has a hash in its name.
build_bench() {
    need_rust
    need_compilers
    use_build_cache
    step "building pgsluice and benches/$1.rs (the first build compiles RocksDB: about 15 minutes on two cores)"
    (cd "$root_folder" && cargo build --release --locked --bin pgsluice --bench "$1" --message-format json-render-diagnostics) |
        sed -n "s/.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p"
}

# Runs a server's program as somebody who may run servers.
as_server_owner() {
    if is_root; then
        (cd / && exec setpriv --reuid postgres --regid postgres --clear-groups -- "$@")
    else
        "$@"
    fi
}

# A loopback port that nothing listens on, below those the kernel gives to outgoing connections.
free_port() {
    local port
    while :; do
        port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { printf '%s\n' "$port"; return; }
    done
}
