-- Logical messages, transactional and not, with any bytes, also in transactions that abort
-- [schema]
create table t(id int primary key);
-- [changes]
select pg_logical_emit_message(false, 'alone', 'text');
begin; insert into t values (1); select pg_logical_emit_message(true, 'in, it''s', '\x00ff0a5c'::bytea); select pg_logical_emit_message(false, 'p', repeat('x', 100000)); insert into t values (2); commit;
begin; select pg_logical_emit_message(true, 'lost', 'x'); select pg_logical_emit_message(false, 'kept', 'x'); insert into t values (3); rollback;
begin; select pg_logical_emit_message(true, '', ''); commit;
insert into t values (4);
