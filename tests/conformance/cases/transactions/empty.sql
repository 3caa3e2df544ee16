-- Transactions that change nothing of a published table
-- [schema]
create table t(id int primary key);
create unlogged table u(id int primary key);
-- [changes]
begin; commit;
begin; select pg_current_xact_id(); commit;
begin; insert into u values (1); commit;
begin; create table passing(id int); drop table passing; commit;
begin; savepoint a; insert into t values (1); rollback to a; commit;
insert into t values (2);
vacuum t;
analyze t;
