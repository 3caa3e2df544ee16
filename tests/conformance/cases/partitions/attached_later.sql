-- A partition with other column order is attached and detached between changes
-- [schema]
create table t(id int primary key, v text) partition by range (id);
create table a partition of t for values from (0) to (10);
create table b(gone int, v text, id int primary key);
alter table b drop column gone;
-- [changes]
insert into t values (1, 'a');
insert into b values ('b', 11), ('c', 12);
alter table t attach partition b for values from (10) to (20);
insert into t values (13, 'd');
update t set id = 14 where id = 1;
update t set v = 'z' where id = 11;
alter table t detach partition b;
insert into b values ('e', 15);
delete from b where id = 12;
-- [compare]
select string_agg(t::text, ' ' order by t) from t
-- [compare]
select string_agg(row(id, v)::text, ' ' order by id) from b
