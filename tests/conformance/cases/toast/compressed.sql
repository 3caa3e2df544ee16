-- TOAST compressed inline and out of line, with lz4 where it is there; columns whose storage changes
-- [schema]
create table t(id int primary key, p text, m text, e text, n int);
alter table t alter p set storage plain, alter m set storage main, alter e set storage extended;
-- [changes]
insert into t select i, repeat('p', 1000), repeat('m' || i, 5000), repeat('e' || i, 50000), 0 from generate_series(1, 3) i;
update t set n = 1;
alter table t alter e set storage external;
update t set e = e || 'x' where id = 1;
update t set n = 2;
update t set id = id + 10;
