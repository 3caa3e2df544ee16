-- Materialized views and views: their refresh does not reach the target's tables
-- [schema]
create table t(id int primary key, v int);
create view seen as select * from t where v > 1 with check option;
create materialized view m as select v, count(*) from t group by v;
create unique index on m(v);
-- [changes]
insert into t select i, i % 3 from generate_series(1, 9) i;
refresh materialized view m;
insert into seen values (20, 2);
update seen set v = 5 where id = 20;
refresh materialized view concurrently m;
delete from seen where id = 2;
refresh materialized view concurrently m;
