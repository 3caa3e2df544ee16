# What the runbooks share. Sourced, not run. Each starts throw-away servers on loopback, puts a load on them, does the commands of
# docs/OPERATIONS.md as they stand there, and looks at what came of it. Exit code 0: all was as the page says.
#
# $PGSLUICE_BIN names a program that is built already; else it is built. --keep leaves servers and archives at the end.
# $PGSLUICE_RUNBOOK_FOLDER: where they are, else in a new folder under the temporary one.
# shellcheck shell=bash
source "$(dirname -- "${BASH_SOURCE[0]}")/../lib.sh"

keep=no
case ${1:-} in
-h | --help) usage; exit 0 ;;
--keep) keep=yes ;;
'') ;;
*) usage >&2; exit 2 ;;
esac

need_postgres
PGSLUICE_BIN=${PGSLUICE_BIN:-$(build_program)}
cluster=$root_folder/tools/cluster
PGSLUICE_PLAY=${PGSLUICE_RUNBOOK_FOLDER:-$(mktemp -d "${TMPDIR:-/tmp}/pgsluice-runbook-XXXXXX")}
mkdir -p "$PGSLUICE_PLAY"
chmod 755 "$PGSLUICE_PLAY"
# Programs by their names, as the page has them; and nothing of whoever runs this.
mkdir "$PGSLUICE_PLAY/bin"
ln -s "$PGSLUICE_BIN" "$PGSLUICE_PLAY/bin/pgsluice"
PATH=$PGSLUICE_PLAY/bin:$(postgres_bin):$PATH
for name in $(compgen -e PGSLUICE_) $(compgen -e AWS_) $(compgen -e PG); do
    case $name in PGSLUICE_PLAY | PGSLUICE_PG_BIN | PGSLUICE_SERVERS | PGSLUICE_STORES | PGSLUICE_CACHE) ;; *) unset "$name" ;; esac
done
export PATH PGSLUICE_PLAY HOME=$PGSLUICE_PLAY PGAPPNAME=runbook

background=()
clean_up() {
    local code=$?
    trap - EXIT
    for id in "${background[@]}"; do kill -9 "$id" 2>/dev/null || true; done
    if [ "$keep" = yes ]; then
        note "kept: export PGSLUICE_PLAY=$PGSLUICE_PLAY; then tools/cluster env, psql, stop"
    else
        "$cluster" stop || true
    fi
    exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# The process that was just put into the background ends with the runbook.
remember() { background+=("$!"); }

# servers ROLE... : starts them and sets what pgsluice wants to know.
servers() {
    local variables
    variables=$("$cluster" start "$@")
    eval "$variables"
    mkdir -p "$PGSLUICE_PLAY/archives"
    export PGSLUICE_ARCHIVE=$PGSLUICE_PLAY/archives/shop
}
conninfo() { printf 'host=127.0.0.1 port=%s user=postgres dbname=postgres' "$(cat "$PGSLUICE_PLAY/$1.port")"; }
on() { psql -XAtq -v ON_ERROR_STOP=1 "$1" -c "$2"; }

# shop CONNINFO : tables with keys, without one, and with a sequence.
shop() {
    pgbench -i -q -s 1 "$1" >/dev/null 2>&1
    on "$1" "alter table pgbench_history replica identity full"
    on "$1" "create table ticket(id bigserial primary key, what text);
             insert into ticket(what) select md5(i::text) from generate_series(1, 1000) i"
}

# load CONNINFO : clients that write, until `rest`.
load() {
    local script=$PGSLUICE_PLAY/load.sql
    cat >"$script" <<'SQL'
\set aid random(1, 100000)
begin;
update pgbench_accounts set abalance = abalance + 1 where aid = :aid;
insert into pgbench_history(tid, bid, aid, delta, mtime) values (1, 1, :aid, 1, current_timestamp);
insert into ticket(what) values ('load');
commit;
SQL
    pgbench -n -c 2 -R 100 -T 600 -f "$script" "$1" >"$PGSLUICE_PLAY/load.log" 2>&1 &
    load_id=$!
    remember
    sleep 1
}
rest() {
    kill "$load_id" 2>/dev/null || true
    wait "$load_id" 2>/dev/null || true
}

# until_so WHAT COMMAND... : asks for at most 60 seconds.
until_so() {
    local what=$1 end=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || die "not within 60 s: $what"
        sleep 0.2
    done
}
# The words of `status --json`.
mode_is() { [ "$(pgsluice status --json | sed -n 's/.*"mode":"\([a-z]*\)".*/\1/p')" = "$1" ]; }
is_received() { [ "$(on "${1:-$PGSLUICE_SOURCE}" "select count(*) from pg_replication_slots where active and slot_type = 'logical'")" = 1 ]; }
runs() { kill -0 "$1" 2>/dev/null || die "ended by itself: $2"; }
# ends CODE ID WHAT : waits for a process of the background.
ends() {
    local code=0
    wait "$2" || code=$?
    [ "$code" = "$1" ] || die "$3 ended with $code, not with $1"
}
# fails CODE COMMAND...
fails() {
    local wanted=$1 code=0
    shift
    "$@" || code=$?
    [ "$code" = "$wanted" ] || die "ended with $code, not with $wanted: $*"
}

# same ONE OTHER : rows and checksums of all user tables of two databases, without any help of the program.
same() {
    local tables table sum
    tables=$(on "$1" "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind = 'r' and n.nspname !~ '^(pg_|information_schema$|pgsluice$)' order by 1")
    [ -n "$tables" ] || die 'there are no tables'
    while read -r table; do
        sum="select count(*) || ' rows, ' || md5(coalesce(string_agg(row, '' order by row), '')) from (select md5(t::text) as row from $table t) rows"
        [ "$(on "$1" "$sum")" = "$(on "$2" "$sum")" ] || die "$table differs: $(on "$1" "$sum") and $(on "$2" "$sum")"
        note "$table: $(on "$1" "$sum")"
    done <<<"$tables"
    step 'equal by checksums: nothing lost, nothing twice'
}

# program_folder first|last : where the programs of the oldest, the newest version at hand are.
program_folder() {
    local which=head
    [ "$1" = first ] || which=tail
    "$root_folder/tools/servers" list | $which -n 1 | cut -f 2
}
# As somebody who may run servers, as the page says it.
sudo() {
    [ "$1 $2" = '-u postgres' ] || die "sudo $*"
    shift 2
    as_server_owner env PATH="$PATH" "$@"
}
# empty_folder ROLE : for a server that is to come.
empty_folder() {
    mkdir -m 700 "$PGSLUICE_PLAY/$1"
    if is_root; then chown postgres: "$PGSLUICE_PLAY/$1"; fi
    printf '%s\n' "$PGSLUICE_PLAY/$1/data"
}
# As tools/cluster makes a server, and without checksums, which older versions have not by default.
initdb_options() {
    printf '%s ' -U postgres -E UTF8 --no-locale
    if "$1/initdb" --help | grep -c -- --no-data-checksums >/dev/null; then echo --no-data-checksums; fi
}
# The lines of tools/cluster in another server's configuration.
same_settings() { sed -n '/^port = /,$p' "$1/postgresql.conf" | as_server_owner tee -a "$2/postgresql.conf" >/dev/null; }
