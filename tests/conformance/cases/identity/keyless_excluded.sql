-- setup --keyless exclude: tables with a key go on
-- [setup --keyless exclude]
-- [schema]
create table t(id int primary key);
create table loose(id int);
-- [changes]
insert into t values (1), (2);
insert into loose values (1);
update loose set id = 2;
delete from t where id = 1;
-- [compare]
select id from t
