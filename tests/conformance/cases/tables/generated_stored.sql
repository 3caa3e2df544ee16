-- Stored generated columns, also in a unique index
-- [schema]
create table t(id int primary key, a int, b int generated always as (a * 2) stored, c text generated always as ('#' || id) stored unique);
-- [changes]
insert into t(id, a) select i, i from generate_series(1, 5) i;
update t set a = a + 100 where id < 3;
update t set id = 9 where id = 5;
