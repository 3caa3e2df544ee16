-- One value of 100 MB
-- [only pgoutput]
-- [schema]
create table t(id int primary key, a text);
alter table t alter column a set storage external;
-- [changes]
insert into t select 1, repeat('0123456789', 10000000);
insert into t values (2, 'small');
update t set id = 3 where id = 1;
