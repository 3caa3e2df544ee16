-- Tables renamed, dropped and created again under one name
-- [refused by follow: public.old does not exist on the target]
-- [schema]
create table t(id int primary key, a text);
-- [changes]
insert into t values (1, 'a'), (2, 'b');
alter table t rename to old;
insert into old values (3, 'c');
create table t(id int primary key, a text);
insert into t values (10, 'new');
drop table old;
-- [mend]
alter table t rename to old;
create table t(id int primary key, a text);
-- [compare]
select string_agg(t::text, ' ' order by id) from t
