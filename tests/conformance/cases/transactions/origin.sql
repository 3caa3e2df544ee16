-- Transactions that carry a replication origin, as those of another subscriber do
-- [schema]
create table t(id int primary key);
-- [changes]
select pg_replication_origin_create('conformance_elsewhere_' || :'DBNAME');
select pg_replication_origin_session_setup('conformance_elsewhere_' || :'DBNAME');
begin; select pg_replication_origin_xact_setup('0/ABCDEF', '2001-01-01'); insert into t values (1); commit;
insert into t values (2);
select pg_replication_origin_session_reset();
select pg_replication_origin_drop('conformance_elsewhere_' || :'DBNAME');
insert into t values (3);
