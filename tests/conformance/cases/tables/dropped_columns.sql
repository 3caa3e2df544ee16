-- Columns dropped on the source before, so that attribute numbers have gaps
-- [source]
create table t(gone int, id int primary key, gone2 text, v text, gone3 int[]);
alter table t drop column gone, drop column gone2, drop column gone3;
-- [target]
create table t(id int primary key, v text);
-- [changes]
insert into t values (1, 'a'), (2, 'b');
update t set v = 'c' where id = 1;
update t set id = 3 where id = 2;
