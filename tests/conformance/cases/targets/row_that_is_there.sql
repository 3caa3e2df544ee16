-- A row that the target has already is refused with its key; removed, the same command goes on
-- [refused by follow: duplicate key value violates unique constraint "t_pkey"]
-- [schema]
create table t(id int primary key, v text);
-- [target]
insert into t values (2, 'foreign');
-- [changes]
insert into t values (1, 'a');
insert into t values (2, 'b');
insert into t values (3, 'c');
-- [mend]
delete from t where id = 2;
