"""Reduces exported Parquet files to the rows that there are at the end, by DuckDB alone, and compares them with the source's.

Usage: reduce.py EXPORT SOURCE, a folder with FOLDER.jsonl for each table: a line {"0": .., "1": ..} a row, of what PostgreSQL prints.
"""
import json
import pathlib
import sys

import duckdb


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def reduce(con, folder):
    files = literal(str(folder / "*.parquet"))
    first = sorted(folder.glob("*.parquet"))[0]
    told = dict(con.execute(f"select decode(key), decode(value) from parquet_kv_metadata({literal(str(first))})").fetchall())
    keys, identity = json.loads(told["pgsluice.key"]), told["pgsluice.identity"]
    described = con.execute(f"describe select * from read_parquet({files}, union_by_name=true)").fetchall()
    # Our own columns are the first ones; their names may have more underscores.
    own = [row[0] for row in described[:8]]
    if len(own) < 8:
        # A table without columns has no rows to compare but by their number.
        con.execute(f"create or replace temp table changes as from read_parquet({files})")
        return []
    number, op, lsn, time, xid, unsent, text, before = map(quoted, own)
    columns = [(row[0], row[1]) for row in described[8:]]
    con.execute(f"create or replace temp table changes as select * from read_parquet({files}, union_by_name=true)")
    con.execute(
        f"create or replace temp table live as select * from changes where {number} > "
        f"(select coalesce(max({number}), 0) from changes where {op} = 't')"
    )

    def special(prefix, name):
        return f"{text}[{literal(prefix + name)}]"

    if identity == "full":
        # Rows are told by all that is in them: each change adds one, takes one away, or both.
        after = ", ".join(f"{quoted(n)} as v{i}, {special('', n)} as s{i}" for i, (n, _) in enumerate(columns))
        gone = ", ".join(
            f"{before}.{quoted(n)} as v{i}, {special('_before.', n)} as s{i}" for i, (n, _) in enumerate(columns)
        )
        every = ", ".join(f"v{i}, s{i}" for i in range(len(columns)))
        con.execute(
            f"""create or replace temp table result as with both_ways as (
            select case {op} when 'd' then -1 else 1 end as count, {after} from live
            union all select -1, {gone} from live where {op} = 'u')
            select {every} from (select {every}, sum(count) as count from both_ways group by all) r, range(r.count::bigint)"""
        )
        return columns
    same = " and ".join(f"{before}.{quoted(k)} is not distinct from {quoted(k)}" for k in keys)
    key = ", ".join(quoted(k) for k in keys)
    old_key = ", ".join(f"{before}.{quoted(k)}" for k in keys)
    moved = f"({op} = 'u' and {before} is not null and not ({same}))"
    con.execute(
        f"""create or replace temp table final as
        select max_by({number}, moment) as number from (
            select {number}, {number} * 2 + 1 as moment, {op} as op, {key} from live
            union all select {number}, {number} * 2, 'd', {old_key} from live where {moved})
        group by {key} having max_by(op, moment) <> 'd'"""
    )
    # What was not sent is what the row before it had: under its old key, where it has another one.
    was = ", ".join(
        f"case when {moved} then {before}.{quoted(k)} else {quoted(k)} end as was{i}" for i, k in enumerate(keys)
    )
    alike = " and ".join(f"r.was{i} = p.{quoted(k)}" for i, k in enumerate(keys))
    con.execute(
        f"""create or replace temp table steps as
        select r.{number} as number, p.{number} as earlier
        from (select {number}, {was} from live where len({unsent}) > 0) r
        asof join live p on {alike} and r.{number} > p.{number}"""
    )
    con.execute(
        """create or replace temp table chain as with recursive walk as (
            select number as final, number, 0 as depth from final
            union all select w.final, s.earlier, w.depth + 1 from walk w join steps s on s.number = w.number)
        select * from walk"""
    )

    values = ", ".join(
        f"(arg_min(struct_pack(v := {quoted(n)}, s := {special('', n)}), depth) "
        f"filter (not list_contains({unsent}, {literal(n)}))) as b{i}"
        for i, (n, _) in enumerate(columns)
    )
    parts = ", ".join(f"b{i}.v as v{i}, b{i}.s as s{i}" for i in range(len(columns)))
    con.execute(
        f"""create or replace temp table result as select {parts} from (
        select final, {values} from chain join live on live.{number} = chain.number group by final)"""
    )
    return columns


def of_source(con, columns, path):
    fields = ", ".join(f"'{i}': 'VARCHAR'" for i in range(len(columns)))
    parts = []
    for i, (_, kind) in enumerate(columns):
        text = f'"{i}"'
        is_special = "false"
        if kind in ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"):
            is_special = f"{text} in ('infinity', '-infinity')"
            # DuckDB says so right behind the day.
            value = f"cast(regexp_replace({text}, '^(\\S+)( .*)? BC$', '\\1 (BC)\\2') as {kind})"
        elif kind.startswith("DECIMAL"):
            is_special, value = f"{text} = 'NaN'", f"cast({text} as {kind})"
        elif kind == "BOOLEAN":
            value = f"{text} = 't'"
        elif kind == "BLOB":
            value = f"unhex(substr({text}, 3))"
        else:
            value = f"cast({text} as {kind})"
        parts.append(f"case when {is_special} then null else {value} end as v{i}, case when {is_special} then {text} end as s{i}")
    con.execute(
        f"create or replace temp table expected as select {', '.join(parts)} from "
        f"read_json({literal(str(path))}, format='newline_delimited', maximum_object_size=100000000, columns={{{fields}}})"
    )


def main():
    export, source = map(pathlib.Path, sys.argv[1:])
    con = duckdb.connect()
    con.execute("set timezone = 'UTC'")
    wrong = 0
    for path in sorted(source.glob("*.jsonl")):
        folder = export / path.stem
        if not folder.exists():
            print(path.stem, "is not there", path.stat().st_size)
            wrong += path.stat().st_size > 0
            continue
        columns = reduce(con, folder)
        if not columns:
            continue
        of_source(con, columns, path)
        count = con.execute("select count(*) from result").fetchone()[0]
        changes = con.execute("select count(*) from changes").fetchone()[0]
        kinds = sorted({kind for _, kind in columns})
        print(f"{path.stem}: {changes} changes, {count} rows, {kinds}")
        for what, one, other in [("extra", "result", "expected"), ("missing", "expected", "result")]:
            rows = con.execute(f"from {one} except all from {other}").fetchall()[:3]
            if rows:
                wrong += 1
                print(f"  {what}: {str(rows)[:3000]}")
    sys.exit(1 if wrong else 0)


main()
