-- A value that does not fit the target's type is refused with table, key and LSN; once it fits, the same command goes on
-- [refused by follow: value "40000" is out of range for type smallint]
-- [source]
create table t(id int primary key, a int);
-- [target]
create table t(id int primary key, a smallint);
-- [changes]
insert into t values (1, 1);
insert into t values (2, 40000);
insert into t values (3, 3);
-- [mend]
alter table t alter a type int;
