-- Money, written by a role with another currency format
-- [schema]
create table t(id int primary key, m money, n money[]);
-- [changes]
insert into t values (1, 92233720368547758.07, '{1.23,-1.23,null}'), (2, -92233720368547758.08, '{}');
set lc_monetary = 'C';
insert into t values (3, 12.34, null);
update t set m = m / 7;
