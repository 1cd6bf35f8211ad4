/** How many tests of one file run beside each other, where they may. */
export const TESTS_AT_ONCE = 3;
