-- Replica identity FULL: doubles, NULLs, with and without a primary key
-- [schema]
create table keyed(id int primary key, v text);
alter table keyed replica identity full;
create table loose(a int, b text);
alter table loose replica identity full;
create table one_null(a int);
alter table one_null replica identity full;
-- [changes]
insert into keyed select i, 'v' from generate_series(1, 5) i;
update keyed set id = id + 10, v = null where id < 3;
delete from keyed where id > 10;
insert into loose values (1, 'x'), (1, 'x'), (1, 'x'), (null, null), (null, null), (1, null), (null, 'x'), (2, '');
delete from loose where ctid = (select min(ctid) from loose where a = 1 and b = 'x');
update loose set b = 'y' where ctid = (select min(ctid) from loose where a = 1 and b = 'x');
delete from loose where ctid = (select min(ctid) from loose where a is null and b is null);
update loose set a = 3 where b is null and a = 1;
insert into one_null values (null), (null), (null);
delete from one_null where ctid = (select min(ctid) from one_null);
update one_null set a = 1 where ctid = (select min(ctid) from one_null);
