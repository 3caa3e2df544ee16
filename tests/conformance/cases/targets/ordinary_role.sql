-- The target's role is no superuser: it has the privileges of the documentation and BYPASSRLS
-- [only 15+]
-- [target role conformance_clerk]
-- [schema]
create table t(id int primary key, v text);
create table child(id int primary key, t int references t);
-- [target]
create role conformance_clerk login bypassrls;
alter table t enable row level security;
create policy own on t using (v = 'mine');
grant all on t, child to conformance_clerk;
grant set on parameter session_replication_role to conformance_clerk;
grant create on database :"DBNAME" to conformance_clerk;
-- [changes]
insert into t values (1, 'mine'), (2, 'theirs');
insert into child values (1, 1), (2, 2);
update t set v = 'other' where id = 1;
delete from child where id = 2;
delete from t where id = 2;
truncate child;
