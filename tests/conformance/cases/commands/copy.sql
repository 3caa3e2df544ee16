-- COPY of many rows, which share LSNs; with and without key; odd characters; FREEZE; defaults
-- [schema]
create table t(id int primary key, a text, b int default 7);
create table loose(a text, b text);
alter table loose replica identity full;
-- [changes]
copy t(id, a) from stdin;
1	one
2	\N
3	a\tb\nc\\d
4	
5	\\.
\.
copy loose from stdin with (format csv);
"a,b","it's ""q"""
"a,b","it's ""q"""
,""
"",
\.
insert into t(id, a) select i, i from generate_series(100, 900) i;
\copy t(id, a) from program 'seq 1000 6000 | sed "s/.*/&	x&/"'
begin; truncate loose; copy loose from stdin with (freeze);
x	y
\.
commit;
update t set b = id where id < 10;
