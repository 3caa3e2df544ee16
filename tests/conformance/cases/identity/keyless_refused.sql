-- Tables without a key are refused with the list, unless it is said what to do
-- [refused by setup: public.t has no usable replica identity (no primary key)]
-- [schema]
create table t(id int);
