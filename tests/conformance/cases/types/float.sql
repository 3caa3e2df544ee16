-- Floats to their extremes: subnormals, -0, NaN, infinities
-- [schema]
create table t(id int primary key, f real, d double precision);
create table whole(d double precision, f real);
alter table whole replica identity full;
-- [changes]
insert into t values (1, 3.4028235e38, 1.7976931348623157e308), (2, 1.4e-45, 4.9e-324), (3, '-0', '-0'), (4, 'NaN', 'NaN'),
    (5, 'Infinity', '-Infinity'), (6, 0.1, 0.1), (7, 16777217, 0.30000000000000004), (8, 1e15, 123456789012345678);
insert into whole select d, f from t;
insert into whole values (0, 0), (0, '-0');
update whole set f = 1 where ctid = (select max(ctid) from whole where d = 0);
delete from whole where d = 'NaN';
delete from whole where ctid = (select min(ctid) from whole where d = 0);
update t set d = d / 3 where id > 5;
