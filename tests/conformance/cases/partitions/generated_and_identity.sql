-- Partitions with generated and identity columns, foreign keys into them, and keys moving between leaves
-- [only 17+]
-- [schema]
create table t(id int generated always as identity, k int, g int generated always as (k * 2) stored, primary key (k, id)) partition by list (k);
create table a partition of t for values in (1);
create table b partition of t for values in (2);
create table child(id int primary key, k int, t int, foreign key (k, t) references t(k, id) on update cascade);
-- [changes]
insert into t(k) values (1), (2), (1);
insert into child values (1, 1, 1), (2, 2, 2);
update t set k = 2 where id = 1;
delete from child;
delete from t where id = 2;
