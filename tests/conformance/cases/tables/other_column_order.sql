-- Columns in another order on the target, and more of them, with defaults, generated and identity
-- [source]
create table t(id int primary key, a text, b int);
create table whole(a text, b int);
alter table whole replica identity full;
-- [target]
create table t(seen timestamptz default now(), b int, serial bigint generated always as identity, id int primary key, twice int generated always as (b * 2) stored, a text, note text default 'none');
create table whole(b int, note text default 'x', a text);
-- [changes]
insert into t values (1, 'a', 1), (2, 'b', 2);
update t set a = b, b = null where id = 1;
update t set id = 3 where id = 2;
insert into whole values ('a', 1), ('a', 1), (null, 2);
delete from whole where ctid = (select min(ctid) from whole);
update whole set a = 'z' where b = 2;
