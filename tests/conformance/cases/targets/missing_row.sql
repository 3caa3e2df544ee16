-- A row that the target lacks stops the applier, which names table and key; put back, the same command goes on
-- [refused by follow: public.t (id = '2')]
-- [schema]
create table t(id int primary key, v text);
insert into t values (1, 'a'), (2, 'b');
-- [target]
delete from t where id = 2;
-- [changes]
update t set v = 'x' where id = 1;
update t set v = 'y' where id = 2;
insert into t values (3, 'z');
-- [mend]
insert into t values (2, 'b');
