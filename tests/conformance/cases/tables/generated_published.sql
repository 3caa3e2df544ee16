-- Generated columns that are published
-- [only 18+]
-- [setup --publication with_generated]
-- [schema]
create table whole(a int, b int generated always as (a + 1) stored, c text generated always as ('x' || a) stored);
alter table whole replica identity full;
create table t(id int primary key, a int, b int generated always as (a * 2) stored);
-- [source]
create publication with_generated for all tables with (publish_generated_columns = stored);
-- [changes]
insert into whole(a) values (1), (1), (null);
update whole set a = 5 where ctid = (select min(ctid) from whole);
delete from whole where a is null;
insert into t(id, a) values (1, 1), (2, 2);
update t set a = 9 where id = 1;
update t set id = 3 where id = 2;
