-- Two-phase transactions arrive at COMMIT PREPARED, after those that committed between
-- [schema]
create table t(id int primary key, v text);
-- [session a]
begin; insert into t values (1, 'prepared'), (2, 'prepared'); savepoint s; insert into t values (3, 'gone'); rollback to s;
-- [session a]
prepare transaction 'conformance_one';
-- [session b]
begin; insert into t values (4, 'rolled back'); prepare transaction 'conformance_two';
-- [session b]
insert into t values (5, 'between');
-- [session a]
commit prepared 'conformance_one';
-- [session b]
rollback prepared 'conformance_two';
-- [session b]
update t set v = v || '!'
