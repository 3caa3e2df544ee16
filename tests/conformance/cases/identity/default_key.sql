-- Replica identity DEFAULT: a key of several columns, changed in part and whole
-- [schema]
create table t(a int, b text, c int, v text, primary key (c, a));
-- [changes]
insert into t select i, 'b' || i, i % 3, 'v' from generate_series(1, 9) i;
update t set v = 'w' where a < 4;
update t set a = 100 + a where c = 1;
update t set a = 200 + a, c = 9, v = null where c = 2;
delete from t where c = 0;
