-- Stored generated columns, in plain tables, in tables without a key, as part of a unique index
-- [schema]
create table t(id int primary key, a int, b int generated always as (a * 2) stored, c text generated always as ('#' || id) stored unique);
create table whole(a int, b int generated always as (a + 1) stored);
alter table whole replica identity full;
-- [changes]
insert into t(id, a) select i, i from generate_series(1, 5) i;
update t set a = a + 100 where id < 3;
update t set id = 9 where id = 5;
insert into whole(a) values (1), (1), (null);
update whole set a = 5 where ctid = (select min(ctid) from whole);
delete from whole where a is null;
