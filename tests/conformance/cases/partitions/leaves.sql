-- Partition trees of two levels: rows move between leaves, TRUNCATE of leaf, branch and root
-- [schema]
create table t(id int, region text, at date, v text, primary key (id, region, at)) partition by list (region);
create table t_eu partition of t for values in ('eu') partition by range (at);
create table t_eu_20 partition of t_eu for values from ('2020-01-01') to ('2021-01-01');
create table t_eu_rest partition of t_eu default;
create table t_us partition of t for values in ('us');
create table t_rest partition of t default;
-- [changes]
insert into t select i, (array['eu', 'us', 'xx'])[i % 3 + 1], date '2020-01-01' + i * 40, 'v' from generate_series(1, 30) i;
update t set v = 'w' where id % 2 = 0;
update t set region = 'us' where id < 6;
update t set at = at + 365 where region = 'eu' and id < 15;
delete from t where id between 10 and 12;
truncate t_us;
insert into t values (100, 'us', '2022-01-01', 'x');
truncate t_eu;
insert into t values (101, 'eu', '2020-05-05', 'y');
update t_rest set id = id + 1000;
