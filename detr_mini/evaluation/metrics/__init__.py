"""What is measured, from COCO records alone: no files, no drawings."""
